"""Reference stars out of the frames themselves, where there is no catalogue of them.

- `frame`: what is known of one CCD at one visit;
- `sky_stars`: stars that grow in number and accuracy with every frame;
- `mosaic`: which frames have a place on the sky, and which source is which star;
- `placing`: one frame after another against the stars of the others;
- `fixed`: sources that belong to the detector;
- `magnitudes`: relative zero points and magnitudes;
- `detections`: means of the detections of each star;
- `headers`: what the frames' headers say of all of them together;
- `catalogue`: the whole way, and how each frame agrees with the stars.

Positions and zero points are relative: the frames agree with each other, and with the sky as well
as their headers do in the mean.
"""
