"""Everything that knows `transformers`: reading its folders, writing them and checking them."""
