"""Starts the `caravan` command."""

import os


def main() -> None:
    """Runs the command line and exits."""
    # gRPC's own log lines would stand between the lines of an answer.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from caravan_client.cli.app import app

        app()
    except KeyboardInterrupt:  # while loading, or while ending
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
