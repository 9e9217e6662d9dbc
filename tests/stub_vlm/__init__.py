"""A vision-language family that no checkpoint has: it shows what a second one costs. Bytes are its tokens."""
