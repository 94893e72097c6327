"""Samplers in numbers: how often each image is drawn, and the class weights of what is drawn."""
