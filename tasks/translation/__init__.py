"""Translation: data, vocabulary, Marian model, training, scoring; each step is one importable function."""
