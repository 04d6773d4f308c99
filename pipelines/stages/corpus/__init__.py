"""Documents: read, filtered with a reason for every rejection, de-duplicated, split into train and heldout."""
