"""What the Triton models do around the engine's parts; `model_repository` only adapts it to Triton.

`arguments`: parameters, logging, the numpy guard. `preprocess_pool`: threads of the preprocessor.
`relay`: the postprocessor's acknowledgements and stops.
"""
