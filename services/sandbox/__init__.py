"""A provider of models on your own machine, for laptops and tests."""
