"""The prompt-attack detector: speed, and quality beside character TF-IDF."""
