"""Items of evaluations: how well features tell right from wrong."""
