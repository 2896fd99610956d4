"""The cases of `pilotlight bench quant`."""
