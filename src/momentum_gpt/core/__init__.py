"""Facts that everything else relies on: options, errors, ranks, files and the terminal."""
