"""KServe v2, the Open Inference Protocol, beside ours on the same port."""
