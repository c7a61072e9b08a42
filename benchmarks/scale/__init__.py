"""Does it scale? Many workers, long studies, busy machines."""
