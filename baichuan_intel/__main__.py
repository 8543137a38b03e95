"""``python -m baichuan_intel`` is the command ``baichuan-intel``."""

from baichuan_intel.cli import main

if __name__ == "__main__":
    main()
