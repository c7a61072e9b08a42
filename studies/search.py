def main(t):
    pass
