"""lstm, gru and rnn, with their gradients and their kernels."""
