//! Prints a table as nft text.
