"""DICOM: reading films, writing predictions back into their study, de-identification.

The only place that imports pydicom and highdicom; nothing here is imported until a DICOM file is at hand.
"""
