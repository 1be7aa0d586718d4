"""Raw sound, video, pictures and text: decoders, and the folder that `modalign prepare` writes."""
