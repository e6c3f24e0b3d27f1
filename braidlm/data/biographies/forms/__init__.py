"""The sentences and questions of each attribute; see `braidlm.data.biographies.form`."""
