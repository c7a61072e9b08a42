"""Trials as learners see them: what is stored on them (`attributes`), how a network in training
gets there (`reporting`), tables of trials that are over (`table`), what they cost (`cost`)."""
