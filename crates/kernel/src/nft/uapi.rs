//! Numbers of the kernel's nf_tables interface.

pub(super) const SUBSYSTEM: u16 = 10;
pub(super) const BATCH_BEGIN: u16 = 0x10;
pub(super) const BATCH_END: u16 = 0x11;
pub(super) const BATCH_GENERATION: u16 = 1;
/// `struct nfgenmsg`
pub(super) const HEADER: usize = 4;

/// Message types, with the subsystem in the upper byte.
pub(super) mod message {
    const fn of(number: u16) -> u16 {
        super::SUBSYSTEM << 8 | number
    }
    pub(in crate::nft) const NEW_TABLE: u16 = of(0);
    pub(in crate::nft) const GET_TABLE: u16 = of(1);
    pub(in crate::nft) const DEL_TABLE: u16 = of(2);
    pub(in crate::nft) const NEW_CHAIN: u16 = of(3);
    pub(in crate::nft) const GET_CHAIN: u16 = of(4);
    pub(in crate::nft) const DEL_CHAIN: u16 = of(5);
    pub(in crate::nft) const NEW_RULE: u16 = of(6);
    pub(in crate::nft) const GET_RULE: u16 = of(7);
    pub(in crate::nft) const DEL_RULE: u16 = of(8);
    pub(in crate::nft) const NEW_SET: u16 = of(9);
    pub(in crate::nft) const GET_SET: u16 = of(10);
    pub(in crate::nft) const DEL_SET: u16 = of(11);
    pub(in crate::nft) const NEW_ELEMENT: u16 = of(12);
    pub(in crate::nft) const GET_ELEMENT: u16 = of(13);
    pub(in crate::nft) const DEL_ELEMENT: u16 = of(14);
    pub(crate) const NEW_GENERATION: u16 = of(15);
    pub(crate) const GET_GENERATION: u16 = of(16);
    pub(in crate::nft) const NEW_OBJECT: u16 = of(18);
    pub(in crate::nft) const GET_OBJECT: u16 = of(19);
    pub(in crate::nft) const DEL_OBJECT: u16 = of(20);
}

pub(super) mod table {
    pub(in crate::nft) const NAME: u16 = 1;
    pub(in crate::nft) const FLAGS: u16 = 2;
    pub(in crate::nft) const FLAG_OWNER: u32 = 2;
    pub(in crate::nft) const FLAG_PERSIST: u32 = 4;
}

pub(super) mod chain {
    pub(in crate::nft) const TABLE: u16 = 1;
    pub(in crate::nft) const NAME: u16 = 3;
    pub(in crate::nft) const HOOK: u16 = 4;
    pub(in crate::nft) const POLICY: u16 = 5;
    pub(in crate::nft) const TYPE: u16 = 7;
    pub(in crate::nft) const HOOK_NUMBER: u16 = 1;
    pub(in crate::nft) const HOOK_PRIORITY: u16 = 2;
    pub(in crate::nft) const POLICY_DROP: u32 = 0;
    pub(in crate::nft) const POLICY_ACCEPT: u32 = 1;
}

pub(super) mod rule {
    pub(in crate::nft) const TABLE: u16 = 1;
    pub(in crate::nft) const CHAIN: u16 = 2;
    pub(in crate::nft) const EXPRESSIONS: u16 = 4;
    pub(in crate::nft) const USERDATA: u16 = 7;
    pub(in crate::nft) const LIST_ELEMENT: u16 = 1;
    pub(in crate::nft) const EXPRESSION_NAME: u16 = 1;
    pub(in crate::nft) const EXPRESSION_DATA: u16 = 2;
    /// User data that the nft tool prints as the rule's comment.
    pub(in crate::nft) const USERDATA_COMMENT: u8 = 0;
    /// User data that holds our content hash; the nft tool skips what it doesn't know.
    pub(in crate::nft) const USERDATA_HASH: u8 = 0xe6;
}

pub(super) mod set {
    pub(in crate::nft) const TABLE: u16 = 1;
    pub(in crate::nft) const NAME: u16 = 2;
    pub(in crate::nft) const FLAGS: u16 = 3;
    pub(in crate::nft) const KEY_TYPE: u16 = 4;
    pub(in crate::nft) const KEY_LEN: u16 = 5;
    pub(in crate::nft) const DATA_TYPE: u16 = 6;
    pub(in crate::nft) const DATA_LEN: u16 = 7;
    pub(in crate::nft) const ID: u16 = 10;
    pub(in crate::nft) const USERDATA: u16 = 13;
    pub(in crate::nft) const EXPRESSION: u16 = 17;
    pub(in crate::nft) const FLAG_INTERVAL: u32 = 4;
    pub(in crate::nft) const FLAG_MAP: u32 = 8;
    pub(in crate::nft) const FLAG_TIMEOUT: u32 = 0x10;
    pub(in crate::nft) const DATA_VERDICT: u32 = 0xffff_ff00;
}

pub(super) mod element {
    pub(in crate::nft) const LIST_TABLE: u16 = 1;
    pub(in crate::nft) const LIST_SET: u16 = 2;
    pub(in crate::nft) const LIST_ELEMENTS: u16 = 3;
    pub(in crate::nft) const LIST_ELEMENT: u16 = 1;
    pub(in crate::nft) const KEY: u16 = 1;
    pub(in crate::nft) const DATA: u16 = 2;
    pub(in crate::nft) const FLAGS: u16 = 3;
    pub(in crate::nft) const TIMEOUT: u16 = 4;
    pub(in crate::nft) const EXPRESSION: u16 = 7;
    pub(in crate::nft) const EXPRESSION_NAME: u16 = 1;
    pub(in crate::nft) const EXPRESSION_DATA: u16 = 2;
    pub(in crate::nft) const FLAG_INTERVAL_END: u32 = 1;
}

pub(super) mod data {
    pub(in crate::nft) const VALUE: u16 = 1;
    pub(in crate::nft) const VERDICT: u16 = 2;
    pub(in crate::nft) const VERDICT_CODE: u16 = 1;
    pub(in crate::nft) const VERDICT_CHAIN: u16 = 2;
    pub(in crate::nft) const DROP: i32 = 0;
    pub(in crate::nft) const ACCEPT: i32 = 1;
    pub(in crate::nft) const JUMP: i32 = -3;
    pub(in crate::nft) const GOTO: i32 = -4;
    pub(in crate::nft) const RETURN: i32 = -5;
}

pub(super) mod object {
    pub(in crate::nft) const TABLE: u16 = 1;
    pub(in crate::nft) const NAME: u16 = 2;
    pub(in crate::nft) const TYPE: u16 = 3;
    pub(in crate::nft) const DATA: u16 = 4;
    pub(in crate::nft) const TYPE_COUNTER: u32 = 1;
    pub(in crate::nft) const COUNTER_BYTES: u16 = 1;
    pub(in crate::nft) const COUNTER_PACKETS: u16 = 2;
    pub(in crate::nft) const TYPE_TIMEOUT: u32 = 7;
    pub(in crate::nft) const TIMEOUT_NETWORK_PROTOCOL: u16 = 1;
    pub(in crate::nft) const TIMEOUT_PROTOCOL: u16 = 2;
    pub(in crate::nft) const TIMEOUT_SECONDS: u16 = 3;
}

pub(super) mod generation {
    pub(crate) const ID: u16 = 1;
    pub(crate) const PROCESS_ID: u16 = 2;
    pub(crate) const PROCESS_NAME: u16 = 3;
}
