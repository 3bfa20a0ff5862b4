"""Which conductances the features of fitted models depend on: Sobol indices about each model."""
