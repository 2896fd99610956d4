"""2:4 sparse weights: of every four neighbours in a row at most two are not zero."""
