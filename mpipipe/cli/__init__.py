"""Commands: one small module each; they read the configuration and call one function."""
