//! Many readers, one fetch; and a slow stor holds up only those who wait for it.
