"""The converters behind `conversion`, by kind of data."""
