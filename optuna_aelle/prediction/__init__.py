"""Where trials will end: parameters and curves as numbers, one predictor, one `Forecast`."""
