"""Matrix products and convolutions, with weights of few bits as well."""
