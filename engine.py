"""What every script needs and none should repeat: processes, checkpoints, the meter, the command line.

Each training loop stays in its own script; here is only what stands around it.
"""

import sys


def cli(main) -> None:
    """Run a script's main(); a user's mistake becomes one line on stderr and exit status 2."""
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
