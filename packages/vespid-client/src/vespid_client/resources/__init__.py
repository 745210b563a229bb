"""What a client can do, a module per noun; the methods' names are those of the API's own verbs."""
