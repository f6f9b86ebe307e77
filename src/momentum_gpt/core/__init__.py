"""Facts that everything else relies on: options, errors, files, ranks and the terminal."""
