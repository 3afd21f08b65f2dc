"""The stage `align`: small CLIP and AST models, trained contrastively on the run's own data."""
