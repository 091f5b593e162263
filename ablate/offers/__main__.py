"""`python -m ablate.offers`: the child process of `ablate.offers.child`."""

from ablate.offers.child import serve

if __name__ == "__main__":
    serve()
