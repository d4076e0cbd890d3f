"""A PACS as source and destination: studies arrive by C-STORE or are pulled by DICOMweb, results go back.

The only place with pynetdicom (extra `pacs`). Nothing here names a patient: studies and films are called by digests.
"""
