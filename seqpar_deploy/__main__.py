"""`python -m seqpar_deploy` is `seqpar`."""

from seqpar_deploy.cli.main import run

if __name__ == "__main__":
    run()
