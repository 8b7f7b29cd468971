//! nf_tables: batches of commands in, tables out.
//!
//! A batch is one transaction: the kernel does all of it or nothing, and no packet sees a part. Where the kernel has both
//! table flags, tables are made with `owner` (no other process can change or flush them) and `persist` (they outlive
//! the owner, and the next process adopts them); the owner is this socket.

mod admission;
mod decode;
mod element;
mod encode;
mod error;
mod expression;
mod uapi;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use datapath::nft::{Key, Set, TableFamily, Value};
use datapath::transaction::{CounterValue, FoundChain, FoundTable, NftCommand, SetShape, TableId};
use nix::errno::Errno;
use nix::sys::socket::MsgFlags;

pub use admission::{Admission, ClosedChain};
pub use decode::Generation;
pub use error::{BatchError, Refusal};

use crate::error::{Error, Result};
use crate::netns::Netns;
use crate::socket::{NetlinkSocket, acknowledgement, is_acknowledgement};
use crate::wire::{self, Message, Writer};
use decode::ListedTable;
use encode::{Batch, Shapes, family_number};
use uapi::message;

pub(crate) use decode::{parse_generation, table_of};

const NETLINK_NETFILTER: isize = 12;
/// How often a table is read anew when somebody commits meanwhile.
const READ_ATTEMPTS: usize = 8;
/// How long the kernel is given to grow a hash table: it takes some milliseconds for 50,000 elements.
const GROWTH_PAUSE: Duration = Duration::from_millis(5);
const OWNED: u32 = uapi::table::FLAG_OWNER | uapi::table::FLAG_PERSIST;
/// Every socket's send buffer has room for this.
const SMALL_BATCH: usize = 64 << 10;
/// Room that the kernel wants in the send buffer beside the batch itself.
const SEND_OVERHEAD: usize = 4096;

/// A connection to one namespace's nf_tables.
#[derive(Debug)]
pub struct NftSocket {
    socket: NetlinkSocket,
    /// Shapes of the sets that this socket has made or read.
    shapes: Shapes,
    /// Tables that this socket owns, or that nobody can own.
    settled: BTreeSet<TableId>,
    /// Whether the kernel has both flags; found out when it matters.
    owner_flags: Option<bool>,
}

impl NftSocket {
    /// Opens it for the calling thread's namespace.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> Result<Self> {
        let socket = NetlinkSocket::open(NETLINK_NETFILTER)?;
        Ok(Self { socket, shapes: Shapes::new(), settled: BTreeSet::new(), owner_flags: None })
    }

    /// Opens it for another namespace.
    ///
    /// # Errors
    /// When the namespace can't be entered, or the kernel gives no socket.
    pub fn open_in(netns: &Netns) -> Result<Self> {
        netns.run(Self::open)?
    }

    /// Does all commands, or none. Tables of ours that nobody owns are adopted on the way.
    ///
    /// # Errors
    /// When the kernel refuses a command, or its privilege or memory is missing.
    pub fn apply(&mut self, commands: &[NftCommand]) -> Result<(), BatchError> {
        self.commit(commands, None, true)
    }

    /// Does all commands, or none, provided that nobody has changed the ruleset since this generation.
    ///
    /// # Errors
    /// [`BatchError::Stale`] when somebody has; else as [`NftSocket::apply`].
    pub fn apply_at(&mut self, commands: &[NftCommand], generation: u32) -> Result<(), BatchError> {
        self.commit(commands, Some(generation), true)
    }

    /// Lets the kernel check the commands, and changes nothing.
    ///
    /// # Errors
    /// What [`NftSocket::apply`] would say.
    pub fn check(&mut self, commands: &[NftCommand]) -> Result<(), BatchError> {
        self.commit(commands, None, false)
    }

    /// The socket's netlink port, by which its commits are known among others'.
    ///
    /// # Errors
    /// When the kernel doesn't say.
    pub fn port(&self) -> Result<u32> {
        self.socket.port()
    }

    /// Number of the ruleset's generation: it changes with every commit of anybody.
    ///
    /// # Errors
    /// When the kernel refuses or its reply makes no sense.
    pub fn generation(&mut self) -> Result<u32> {
        let what = "reading the ruleset's generation";
        let mut found = None;
        self.socket.query(
            what,
            message::GET_GENERATION,
            |w| w.raw(&[0; 4]),
            |message| found = parse_generation(&message),
        )?;
        found.map(|generation| generation.id).ok_or_else(|| Error::Malformed { what: what.to_owned() })
    }

    /// Names of all tables, whoever made them.
    ///
    /// # Errors
    /// When the kernel refuses or its reply makes no sense.
    pub fn tables(&mut self) -> Result<BTreeSet<TableId>> {
        Ok(self.list_tables()?.into_iter().map(|table| table.id).collect())
    }

    /// Reads a table with everything in it, as of one generation. `None` if it isn't there.
    ///
    /// # Errors
    /// [`Error::Unstable`] when others commit all the time.
    pub fn read(&mut self, id: &TableId) -> Result<Option<FoundTable>> {
        for _ in 0..READ_ATTEMPTS {
            let before = self.generation()?;
            let outcome = self.read_once(id);
            if self.generation()? == before {
                return outcome;
            }
        }
        Err(Error::Unstable { what: format!("reading the table {}", id.name) })
    }

    /// Values of a table's named counters. Empty if there is no such table.
    ///
    /// # Errors
    /// When the kernel refuses or its reply makes no sense.
    pub fn counters(&mut self, id: &TableId) -> Result<BTreeMap<String, CounterValue>> {
        let body = |w: &mut Writer| {
            put_family(w, id.family);
            w.text(uapi::object::TABLE, &id.name);
            w.u32_be(uapi::object::TYPE, uapi::object::TYPE_COUNTER);
        };
        let found =
            self.socket.dump("listing counters", message::GET_OBJECT, body, |m| decode::parse_counter(&m))?;
        Ok(found.into_iter().collect())
    }

    /// What was counted at each element of a set that counts, by key. Empty if there is no such set.
    ///
    /// # Errors
    /// When the kernel refuses or its reply makes no sense.
    pub fn element_counters(&mut self, id: &TableId, set: &str) -> Result<BTreeMap<Vec<u8>, CounterValue>> {
        let body = |w: &mut Writer| {
            put_family(w, id.family);
            w.text(uapi::element::LIST_TABLE, &id.name);
            w.text(uapi::element::LIST_SET, set);
        };
        let parse = |m: Message<'_>| Some(decode::parse_element_counters(&m));
        match self.socket.dump("listing elements", message::GET_ELEMENT, body, parse) {
            Err(error) if error.is_not_found() => Ok(BTreeMap::new()),
            other => Ok(other?.into_iter().flatten().collect()),
        }
    }

    /// Names of a table's timeouts. A kernel that has none of these lists none.
    fn timeouts(&mut self, id: &TableId) -> Result<BTreeSet<String>> {
        let body = |w: &mut Writer| {
            put_family(w, id.family);
            w.text(uapi::object::TABLE, &id.name);
            w.u32_be(uapi::object::TYPE, uapi::object::TYPE_TIMEOUT);
        };
        let parse = |m: Message<'_>| decode::parse_object_name(&m, uapi::object::TYPE_TIMEOUT);
        Ok(self.socket.dump("listing timeouts", message::GET_OBJECT, body, parse)?.into_iter().collect())
    }

    /// Takes over a table that outlived its owner, so that others can't change it. Does nothing where there is none, or
    /// where the kernel has no owners.
    ///
    /// # Errors
    /// When another process owns the table.
    pub fn adopt(&mut self, id: &TableId) -> Result<(), BatchError> {
        if self.is_orphan(id)? {
            self.apply(&[NftCommand::AddTable(id.clone())])?;
        }
        Ok(())
    }

    fn commit(
        &mut self,
        commands: &[NftCommand],
        generation: Option<u32>,
        for_good: bool,
    ) -> Result<(), BatchError> {
        if commands.is_empty() {
            return Ok(());
        }
        let orphans = self.orphans_among(commands)?;
        let flags = self.table_flags(commands)?;
        self.learn_shapes(commands)?;
        let look_up = |id: &TableId| flags.get(id).copied();
        let first_sequence = self.socket.next_sequence();
        let mut batch = Batch::new(first_sequence, &self.shapes, &look_up);
        batch.begin(generation);
        for id in orphans {
            batch.push(usize::MAX, &NftCommand::AddTable(id))?;
        }
        for (index, command) in commands.iter().enumerate() {
            batch.push(index, command)?;
        }
        // The last message asks for an acknowledgement, so that silence is never taken for success.
        let last = batch.acknowledge_last();
        if for_good {
            batch.end();
        }
        let (writer, owners) = (batch.writer, batch.owners);
        self.socket.skip_sequences(u32::try_from(owners.len()).unwrap_or(u32::MAX));
        let outcome = self.exchange(writer, first_sequence, last, &owners, commands);
        match &outcome {
            Ok(()) if for_good => self.remember(commands),
            _ => self.forget_shapes(commands),
        }
        outcome
    }

    /// Sends a batch and reads the kernel's verdict, which is there when `send` returns.
    fn exchange(
        &mut self,
        writer: Writer,
        first_sequence: u32,
        last_sequence: u32,
        owners: &[usize],
        commands: &[NftCommand],
    ) -> Result<(), BatchError> {
        let what = "committing to nf_tables";
        let bytes = writer.len();
        // What an earlier exchange left unread would be taken for an answer to this one.
        while matches!(
            self.socket.receive(what, MsgFlags::MSG_DONTWAIT),
            Ok(Some(_)) | Err(Error::Lost { .. })
        ) {}
        if bytes > SMALL_BATCH {
            self.socket.grow_send_buffer(bytes + SEND_OVERHEAD);
        }
        self.socket.send(what, writer).map_err(|error| match error.errno() {
            Some(Errno::EMSGSIZE) => BatchError::TooLarge { bytes },
            _ => error.into(),
        })?;
        let mut refused: Vec<(Option<usize>, Errno, Option<String>)> = Vec::new();
        let mut acknowledged = false;
        while let Some(datagram) = self.socket.receive(what, MsgFlags::MSG_DONTWAIT)? {
            for message in wire::messages(datagram).filter(is_acknowledgement) {
                let place = message.sequence.wrapping_sub(first_sequence) as usize;
                match acknowledgement(&message) {
                    Ok(()) => acknowledged |= message.sequence == last_sequence,
                    Err((errno, words)) if message.sequence == 0 => refused.push((None, errno, words)),
                    Err((errno, words)) => {
                        // Replies to earlier batches that nobody waited for are no longer of interest.
                        if let Some(owner) = owners.get(place) {
                            refused.push((Some(*owner), errno, words));
                        }
                    }
                }
            }
        }
        let others = refused.len().saturating_sub(1);
        match refused.into_iter().next() {
            None if acknowledged => Ok(()),
            None => Err(Error::Lost { what: what.to_owned() }.into()),
            Some((None, Errno::ERESTART, _)) => Err(BatchError::Stale),
            Some((owner, errno, message)) => {
                let command =
                    owner.and_then(|index| commands.get(index).map(|command| (index, command.to_string())));
                Err(BatchError::Refused { command, errno, message, others })
            }
        }
    }

    /// Tables that are touched, outlived their owner, and are not made by the commands.
    fn orphans_among(&mut self, commands: &[NftCommand]) -> Result<Vec<TableId>> {
        let touched: BTreeSet<&TableId> = commands.iter().map(NftCommand::table).collect();
        if touched.iter().all(|id| self.settled.contains(*id)) {
            return Ok(Vec::new());
        }
        let listed = self.list_tables()?;
        let orphan = |table: &&ListedTable| {
            touched.contains(&table.id) && table.flags & OWNED == uapi::table::FLAG_PERSIST
        };
        Ok(listed.iter().filter(orphan).map(|table| table.id.clone()).collect())
    }

    fn is_orphan(&mut self, id: &TableId) -> Result<bool> {
        let flags = self.list_tables()?.into_iter().find(|table| table.id == *id).map(|table| table.flags);
        Ok(flags.is_some_and(|flags| flags & OWNED == uapi::table::FLAG_PERSIST))
    }

    /// The flags with which tables are made: both or, for tables that are there without and kernels that lack them, none.
    fn table_flags(&mut self, commands: &[NftCommand]) -> Result<BTreeMap<TableId, u32>> {
        let touched: BTreeSet<&TableId> = commands.iter().map(NftCommand::table).collect();
        if touched.iter().all(|id| self.settled.contains(*id)) && !makes_table(commands) {
            return Ok(BTreeMap::new());
        }
        if !self.has_owner_flags()? {
            return Ok(BTreeMap::new());
        }
        let listed = self.list_tables()?;
        let plain = |id: &TableId| {
            let remade = commands.iter().any(|c| matches!(c, NftCommand::DeleteTable(table) if table == id));
            !remade
                && listed.iter().any(|table| table.id == *id && table.flags & uapi::table::FLAG_PERSIST == 0)
        };
        Ok(touched.into_iter().filter(|id| !plain(id)).map(|id| (id.clone(), OWNED)).collect())
    }

    fn has_owner_flags(&mut self) -> Result<bool> {
        if let Some(known) = self.owner_flags {
            return Ok(known);
        }
        // A batch without end is checked and dropped: nothing changes, not even the generation.
        let sequence = self.socket.next_sequence();
        let shapes = Shapes::new();
        let mut batch = Batch::new(sequence, &shapes, &|_| Some(OWNED));
        batch.begin(None);
        let probe =
            NftCommand::AddTable(TableId { family: TableFamily::Inet, name: "owner-flags-probe".to_owned() });
        batch.push(0, &probe)?;
        let last = batch.acknowledge_last();
        let (writer, owners) = (batch.writer, batch.owners);
        let known = match self.exchange(writer, sequence, last, &owners, &[probe]) {
            Ok(()) => true,
            Err(BatchError::Refused { errno: Errno::EPERM, message, .. }) => {
                let what = "asking nf_tables".to_owned();
                return Err(Error::Refused { what, errno: Errno::EPERM, message });
            }
            Err(BatchError::Kernel(error)) => return Err(error),
            Err(_) => false,
        };
        self.owner_flags = Some(known);
        Ok(known)
    }

    /// Makes sure that the shapes of all sets whose elements change are known.
    fn learn_shapes(&mut self, commands: &[NftCommand]) -> Result<()> {
        for command in commands {
            match command {
                NftCommand::AddSet { table, name, shape } => {
                    self.shapes.insert((table.clone(), name.clone()), shape.clone());
                }
                NftCommand::AddElements { table, set, .. }
                | NftCommand::DeleteElements { table, set, .. }
                    if !self.shapes.contains_key(&(table.clone(), set.clone())) =>
                {
                    self.list_sets(table)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Sets that a refused batch would have made may be there in another shape.
    fn forget_shapes(&mut self, commands: &[NftCommand]) {
        for command in commands {
            if let NftCommand::AddSet { table, name, .. } = command {
                self.shapes.remove(&(table.clone(), name.clone()));
            }
        }
    }

    fn remember(&mut self, commands: &[NftCommand]) {
        for command in commands {
            match command {
                NftCommand::DeleteTable(id) => {
                    self.settled.remove(id);
                    self.shapes.retain(|(table, _), _| table != id);
                }
                NftCommand::DeleteSet { table, name } => {
                    // Made anew in the same batch, it has its new shape.
                    let remade = commands
                        .iter()
                        .any(|c| matches!(c, NftCommand::AddSet { table: t, name: n, .. } if t == table && n == name));
                    if !remade {
                        self.shapes.remove(&(table.clone(), name.clone()));
                    }
                }
                other => {
                    self.settled.insert(other.table().clone());
                }
            }
        }
    }

    fn list_tables(&mut self) -> Result<Vec<ListedTable>> {
        self.socket.dump(
            "listing tables",
            message::GET_TABLE,
            |w| w.raw(&[0; 4]),
            |m| decode::parse_table(&m),
        )
    }

    fn list_sets(&mut self, id: &TableId) -> Result<Vec<decode::ListedSet>> {
        let body = |w: &mut Writer| {
            put_family(w, id.family);
            w.text(uapi::set::TABLE, &id.name);
        };
        let sets = match self.socket.dump("listing sets", message::GET_SET, body, |m| decode::parse_set(&m)) {
            Err(error) if error.is_not_found() => Vec::new(),
            other => other?,
        };
        for set in &sets {
            let key = (id.clone(), set.name.clone());
            match &set.shape {
                Some(shape) => self.shapes.insert(key, shape.clone()),
                None => self.shapes.remove(&key),
            };
        }
        Ok(sets)
    }

    fn list_rules(&mut self, id: &TableId) -> Result<Vec<decode::ListedRule>> {
        let body = |w: &mut Writer| {
            put_family(w, id.family);
            w.text(uapi::rule::TABLE, &id.name);
        };
        self.socket.dump("listing rules", message::GET_RULE, body, |m| decode::parse_rule(&m))
    }

    /// Chains of all tables of all families.
    fn list_all_chains(&mut self) -> Result<Vec<decode::ListedChain>> {
        let all = |w: &mut Writer| w.raw(&[0; 4]);
        self.socket.dump("listing chains", message::GET_CHAIN, all, |m| decode::parse_chain(&m))
    }

    fn read_once(&mut self, id: &TableId) -> Result<Option<FoundTable>> {
        let Some(table) = self.list_tables()?.into_iter().find(|table| table.id == *id) else {
            return Ok(None);
        };
        let mut found =
            FoundTable { owned: table.flags & uapi::table::FLAG_OWNER != 0, ..FoundTable::default() };
        for set in self.list_sets(id)? {
            let set_found = match set.shape {
                None => Set {
                    key: Vec::new(),
                    data: None,
                    interval: false,
                    timeout: false,
                    counting: false,
                    elements: BTreeMap::new(),
                },
                Some(shape) => Set {
                    elements: self.list_elements(id, &set.name, &shape)?,
                    key: shape.key,
                    data: shape.data,
                    interval: shape.interval,
                    timeout: shape.timeout,
                    counting: shape.counting,
                },
            };
            found.sets.insert(set.name, set_found);
        }
        found.counters = self.counters(id)?;
        found.timeouts = self.timeouts(id)?;
        let family = |w: &mut Writer| put_family(w, id.family);
        let chains =
            self.socket.dump("listing chains", message::GET_CHAIN, family, |m| decode::parse_chain(&m))?;
        for chain in chains.into_iter().filter(|chain| chain.table == id.name) {
            found.chains.insert(chain.name, FoundChain { hook: chain.hook, rules: Vec::new() });
        }
        for rule in self.list_rules(id)? {
            found.chains.entry(rule.chain).or_default().rules.push(rule.hash);
        }
        Ok(Some(found))
    }

    /// The elements of a set. While the kernel still grows a hash table in the background, its list gives some elements
    /// twice and leaves out as many: then it is read anew.
    fn list_elements(&mut self, id: &TableId, set: &str, shape: &SetShape) -> Result<BTreeMap<Key, Value>> {
        let body = |w: &mut Writer| {
            put_family(w, id.family);
            w.text(uapi::element::LIST_TABLE, &id.name);
            w.text(uapi::element::LIST_SET, set);
        };
        let parse = |m: Message<'_>| Some(decode::parse_elements(shape, &m));
        for _ in 0..READ_ATTEMPTS {
            let listed = match self.socket.dump("listing elements", message::GET_ELEMENT, body, parse) {
                // Gone meanwhile: the caller sees another generation and reads anew.
                Err(error) if error.is_not_found() => return Ok(BTreeMap::new()),
                other => other?.into_iter().flatten().collect::<Vec<_>>(),
            };
            let count = listed.len();
            let elements = element::collect(shape.interval, listed);
            if shape.interval || elements.len() == count {
                return Ok(elements);
            }
            std::thread::sleep(GROWTH_PAUSE);
        }
        Err(Error::Unstable { what: format!("listing the elements of {set}") })
    }
}

fn makes_table(commands: &[NftCommand]) -> bool {
    commands.iter().any(|command| matches!(command, NftCommand::AddTable(_)))
}

fn put_family(w: &mut Writer, family: TableFamily) {
    w.raw(&[family_number(family), 0, 0, 0]);
}
