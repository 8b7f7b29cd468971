//! Tables as they are known to be: they are read again only after somebody else has committed anything.

use datapath::state::DatapathState;
use datapath::transaction::{Found, FoundTable, Interest, TableId};

use super::{Converger, Kernel};

impl<K: Kernel> Converger<K> {
    /// Reads the kernel; its tables only if anybody has committed anything since the last pass.
    pub(super) fn read(&mut self, mut interest: Interest) -> Result<Found, K::Error> {
        let known = match self.known_tables.take() {
            Some((generation, tables)) if self.kernel.generation()? == generation => {
                Some((generation, tables))
            }
            _ => None,
        };
        if known.is_some() {
            interest.tables.clear();
        }
        let mut found = self.kernel.read(&interest)?;
        if let Some((generation, tables)) = known {
            (found.generation, found.tables) = (generation, tables);
        }
        Ok(found)
    }

    /// After a commit: the tables are as they were wanted, if nobody else has committed anything meanwhile.
    pub(super) fn remember_tables(&mut self, before: u32, wanted: &DatapathState) -> Result<(), K::Error> {
        let now = self.kernel.generation()?;
        let tables = wanted
            .tables
            .values()
            .map(|table| (TableId { family: table.family, name: table.name.clone() }, FoundTable::of(table)));
        self.known_tables = (now == before.wrapping_add(1)).then(|| (now, tables.collect()));
        Ok(())
    }
}
