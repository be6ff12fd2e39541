"""The methods one by one, without a run around them."""
