"""`heatward explain`: every heatmap of an image side by side, with the verdict, as one page or one picture."""
