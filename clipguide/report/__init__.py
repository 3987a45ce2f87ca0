"""What is written down about images: contact sheets, metadata inside the files, plain tables."""
