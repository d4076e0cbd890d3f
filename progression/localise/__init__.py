"""A film to its knees: where they stand, which side each is, and what is no film of knees."""
