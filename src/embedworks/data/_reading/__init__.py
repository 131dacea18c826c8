"""The readers of single formats behind `readers`."""
