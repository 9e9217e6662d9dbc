"""`python -m mlx_mm`."""

from mlx_mm.cli import main

if __name__ == "__main__":
    main()
