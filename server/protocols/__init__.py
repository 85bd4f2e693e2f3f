"""What is spoken: messages in, requests to the pipeline out; results in, messages out."""
