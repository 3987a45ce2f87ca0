"""What writes about pictures: captioners, answers, masks of a phrase."""
