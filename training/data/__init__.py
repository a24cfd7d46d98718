"""Songs: finding, describing, decoding and caching them."""
