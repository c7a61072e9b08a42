"""The command; its processes import this again, so what it needs is imported only by itself."""

if __name__ == "__main__":
    from benchmarks.scale.measuring import main

    main()
