"""Networks that look at neighbours and dates together: recurrent, three-dimensional and with temporal attention."""
