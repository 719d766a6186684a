"""Reading videos that nobody vouches for, and writing the ones that go into a dataset."""
