"""Crystal defects: builders and far-field predictors."""
