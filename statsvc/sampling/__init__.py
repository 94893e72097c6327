"""Image probabilities of samplers, and class weights of the streams that they draw."""
