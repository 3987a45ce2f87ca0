"""Images from prompts, with all that made them written down so that they can be made again."""
