//! Counters under Linux's names, as `nstat -a` prints them: group (Tcp, TcpExt, Ip ...) and name.

use bytemuck::Zeroable;

macro_rules! counters {
    ($($name:ident = $text:literal, $doc:literal;)*) => {
        /// One counter. Its text is Linux's own name in /proc/net/snmp or /proc/net/netstat, or `Tcpreload...` where
        /// Linux has none.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(usize)]
        pub enum Counter { $(#[doc = $doc] $name,)* }

        impl Counter {
            pub const ALL: &'static [Counter] = &[$(Counter::$name,)*];
            pub const COUNT: usize = Self::ALL.len();
            pub const fn name(self) -> &'static str {
                match self { $(Counter::$name => $text,)* }
            }
        }
    };
}

counters! {
    ActiveOpens = "TcpActiveOpens", "CLOSED to SYN-SENT.";
    PassiveOpens = "TcpPassiveOpens", "A listener's handshake that became a connection.";
    AttemptFails = "TcpAttemptFails", "SYN-SENT or SYN-RECEIVED that ended without a connection.";
    EstabResets = "TcpEstabResets", "ESTABLISHED or CLOSE-WAIT to CLOSED.";
    InSegs = "TcpInSegs", "Segments received, also bad ones.";
    OutSegs = "TcpOutSegs", "Segments sent, retransmissions excepted; a GSO packet counts its segments.";
    RetransSegs = "TcpRetransSegs", "Segments sent again.";
    InErrs = "TcpInErrs", "Segments with a bad header or checksum.";
    OutRsts = "TcpOutRsts", "Segments sent with RST.";
    InCsumErrors = "TcpInCsumErrors", "Bad TCP checksums.";
    SyncookiesSent = "TcpExtSyncookiesSent", "SYN-ACKs that carried a cookie.";
    SyncookiesRecv = "TcpExtSyncookiesRecv", "Valid cookies received.";
    SyncookiesFailed = "TcpExtSyncookiesFailed", "Invalid cookies received.";
    EmbryonicRsts = "TcpExtEmbryonicRsts", "Resets of request sockets.";
    OutOfWindowIcmps = "TcpExtOutOfWindowIcmps", "ICMP errors outside of the window.";
    TW = "TcpExtTW", "Connections that went to TIME-WAIT.";
    TWRecycled = "TcpExtTWRecycled", "TIME-WAIT entries that were taken by a new connection.";
    PAWSActive = "TcpExtPAWSActive", "SYN-ACKs with an unacceptable timestamp.";
    PAWSEstab = "TcpExtPAWSEstab", "Segments with an old timestamp.";
    DelayedACKs = "TcpExtDelayedACKs", "Delayed ACKs that were sent by the timer.";
    DelayedACKLost = "TcpExtDelayedACKLost", "Duplicates received that show an ACK was lost or late.";
    ListenOverflows = "TcpExtListenOverflows", "Accept queue full.";
    ListenDrops = "TcpExtListenDrops", "SYNs and final ACKs dropped by a listener, for whatever reason.";
    TCPHPHits = "TcpExtTCPHPHits", "Segments taken by header prediction.";
    TCPPureAcks = "TcpExtTCPPureAcks", "ACKs without data.";
    TCPSackRecovery = "TcpExtTCPSackRecovery", "Recoveries started by SACK.";
    TCPRenoRecovery = "TcpExtTCPRenoRecovery", "Recoveries started by duplicate ACKs without SACK.";
    TCPSACKReneging = "TcpExtTCPSACKReneging", "SACKed data that the peer dropped.";
    TCPFastRetrans = "TcpExtTCPFastRetrans", "Segments sent again in recovery.";
    TCPSlowStartRetrans = "TcpExtTCPSlowStartRetrans", "Segments sent again in slow start after a time-out.";
    TCPTimeouts = "TcpExtTCPTimeouts", "Retransmission time-outs.";
    TCPLossProbes = "TcpExtTCPLossProbes", "Tail loss probes sent.";
    TCPFullUndo = "TcpExtTCPFullUndo", "Recoveries that were needless.";
    TCPLostRetransmit = "TcpExtTCPLostRetransmit", "Retransmissions found lost.";
    TCPSpuriousRTOs = "TcpExtTCPSpuriousRTOs", "Time-outs found spurious.";
    TCPLossProbeRecovery = "TcpExtTCPLossProbeRecovery", "Losses that a tail loss probe has repaired.";
    TCPDSACKOldSent = "TcpExtTCPDSACKOldSent", "DSACKs sent for data received before.";
    TCPDSACKOfoSent = "TcpExtTCPDSACKOfoSent", "DSACKs sent for out-of-order duplicates.";
    TCPDSACKRecv = "TcpExtTCPDSACKRecv", "DSACKs received.";
    TCPAbortOnData = "TcpExtTCPAbortOnData", "Connections reset because data came after close.";
    TCPAbortOnClose = "TcpExtTCPAbortOnClose", "Connections reset by a close with unread data.";
    TCPAbortOnMemory = "TcpExtTCPAbortOnMemory", "Connections reset for want of memory.";
    TCPAbortOnTimeout = "TcpExtTCPAbortOnTimeout", "Connections given up by time-out.";
    TCPAbortOnLinger = "TcpExtTCPAbortOnLinger", "Orphans given up in FIN-WAIT-2 by TCP_LINGER2.";
    TCPAbortFailed = "TcpExtTCPAbortFailed", "RSTs that could not be sent.";
    TCPBacklogDrop = "TcpExtTCPBacklogDrop", "Segments dropped for want of buffer.";
    TCPMinTTLDrop = "TcpExtTCPMinTTLDrop", "Segments below IP_MINTTL.";
    TCPDeferAcceptDrop = "TcpExtTCPDeferAcceptDrop", "Bare ACKs dropped by TCP_DEFER_ACCEPT.";
    TCPReqQFullDoCookies = "TcpExtTCPReqQFullDoCookies", "SYN queue full: a cookie was sent.";
    TCPReqQFullDrop = "TcpExtTCPReqQFullDrop", "SYN queue full: the SYN was dropped.";
    TCPRcvCoalesce = "TcpExtTCPRcvCoalesce", "Segments merged with the one before.";
    TCPOFOQueue = "TcpExtTCPOFOQueue", "Segments queued out of order.";
    TCPOFODrop = "TcpExtTCPOFODrop", "Segments out of order dropped for want of room.";
    TCPOFOMerge = "TcpExtTCPOFOMerge", "Out-of-order segments that overlapped others.";
    TCPChallengeACK = "TcpExtTCPChallengeACK", "Challenge ACKs (RFC 5961).";
    TCPSYNChallenge = "TcpExtTCPSYNChallenge", "Challenge ACKs for a SYN.";
    TCPAutoCorking = "TcpExtTCPAutoCorking", "Small segments held back.";
    TCPFromZeroWindowAdv = "TcpExtTCPFromZeroWindowAdv", "Window opened from zero.";
    TCPToZeroWindowAdv = "TcpExtTCPToZeroWindowAdv", "Window closed to zero.";
    TCPWantZeroWindowAdv = "TcpExtTCPWantZeroWindowAdv", "Window would have closed to zero.";
    TCPSynRetrans = "TcpExtTCPSynRetrans", "SYNs and SYN-ACKs sent again.";
    TCPOrigDataSent = "TcpExtTCPOrigDataSent", "Segments with new data.";
    TCPACKSkippedSynRecv = "TcpExtTCPACKSkippedSynRecv", "Challenge ACKs withheld in SYN-RECEIVED.";
    TCPACKSkippedPAWS = "TcpExtTCPACKSkippedPAWS", "Challenge ACKs withheld after PAWS.";
    TCPACKSkippedSeq = "TcpExtTCPACKSkippedSeq", "Challenge ACKs withheld: out of window.";
    TCPACKSkippedTimeWait = "TcpExtTCPACKSkippedTimeWait", "ACKs withheld in TIME-WAIT.";
    TCPACKSkippedChallenge = "TcpExtTCPACKSkippedChallenge", "Challenge ACKs over the limit.";
    TCPWinProbe = "TcpExtTCPWinProbe", "Window probes sent.";
    TCPKeepAlive = "TcpExtTCPKeepAlive", "Keepalive probes sent.";
    TCPDelivered = "TcpExtTCPDelivered", "Segments delivered to the peer.";
    TCPAckCompressed = "TcpExtTCPAckCompressed", "ACKs merged.";
    TCPZeroWindowDrop = "TcpExtTCPZeroWindowDrop", "Segments dropped at a zero window.";
    TCPRcvQDrop = "TcpExtTCPRcvQDrop", "Segments dropped: receive queue full.";
    TcpTimeoutRehash = "TcpExtTcpTimeoutRehash", "Routes tried anew after a time-out.";
    TCPTSReorder = "TcpExtTCPTSReorder", "Reordering found by timestamps.";
    TCPSACKReorder = "TcpExtTCPSACKReorder", "Reordering found by SACK.";
    TCPFastOpenActive = "TcpExtTCPFastOpenActive", "SYNs whose data was acknowledged.";
    TCPFastOpenActiveFail = "TcpExtTCPFastOpenActiveFail", "SYNs whose data was not.";
    TCPFastOpenPassive = "TcpExtTCPFastOpenPassive", "Connections made at the SYN.";
    TCPFastOpenPassiveFail = "TcpExtTCPFastOpenPassiveFail", "Fast Open cookies that were not good.";
    TCPFastOpenListenOverflow = "TcpExtTCPFastOpenListenOverflow", "SYNs beyond a listener's TCP_FASTOPEN.";
    TCPFastOpenCookieReqd = "TcpExtTCPFastOpenCookieReqd", "SYNs that asked for a cookie.";
    TCPFastOpenBlackhole = "TcpExtTCPFastOpenBlackhole", "Times that Fast Open was paused.";
    TCPFastOpenPassiveAltKey = "TcpExtTCPFastOpenPassiveAltKey", "Cookies made with the older key.";
    TWKilled = "TcpExtTWKilled", "TIME-WAIT entries dropped early.";
    TCPTimeWaitOverflow = "TcpExtTCPTimeWaitOverflow", "TIME-WAIT table full.";
    IcmpErrors = "TcpreloadIcmpErrors", "ICMP errors about TCP segments, for whatever connection.";
    IcmpInErrors = "IcmpInErrors", "ICMP packets with a bad checksum.";
    InNoRoutes = "IpExtInNoRoutes", "Packets for nobody here.";
    InCsumErrorsIp = "IpExtInCsumErrors", "Bad IP header checksums.";
    // What the kernel does before TCP and this stack has to redo, and what only a stack like this one has.
    DropNotHost = "TcpreloadDropNotHost", "Frames that were not addressed to this host (forwarded, promiscuous).";
    DropNotLocal = "TcpreloadDropNotLocal", "Packets to an address that is not ours.";
    DropMartian = "TcpreloadDropMartian", "Impossible source or destination for the interface.";
    DropBadIp = "TcpreloadDropBadIp", "Malformed IP headers.";
    DropFragment = "TcpreloadDropFragment", "IP fragments; this stack takes whole packets only.";
    DropNotOurs = "TcpreloadDropNotOurs", "Segments to a port that this stack does not own.";
    DropState = "TcpreloadDropState", "Segments that no state has a use for.";
    DropWindow = "TcpreloadDropWindow", "Segments outside of the window.";
    DropAck = "TcpreloadDropAck", "Segments with an unacceptable ACK.";
    RxRingFull = "TcpreloadRxRingFull", "Frames lost because the receive ring was full.";
    RxFrames = "TcpreloadRxFrames", "Frames received.";
    TxFrames = "TcpreloadTxFrames", "Frames sent.";
    TxHeld = "TcpreloadTxHeld", "Times that something to be sent has waited for more, in the middle of a round.";
    TxErrors = "TcpreloadTxErrors", "Frames that the kernel refused.";
    TableFull = "TcpreloadTableFull", "A table of the arena was full.";
    LockRecovered = "TcpreloadLockRecovered", "The lock's holder died and the tables were repaired.";
}

/// All counters of one stack.
#[derive(Clone, Copy, Zeroable)]
#[repr(transparent)]
pub struct Counters([u64; Counter::COUNT]);

impl Counters {
    pub fn inc(&mut self, c: Counter) {
        self.add(c, 1);
    }

    pub fn add(&mut self, c: Counter, n: u64) {
        self.0[c as usize] = self.0[c as usize].wrapping_add(n);
    }

    pub fn value(&self, c: Counter) -> u64 {
        self.0[c as usize]
    }

    /// All of them as a line of JSON.
    pub fn to_json_line(&self) -> String {
        let all: Vec<String> = self.iter().map(|(c, value)| format!("\"{}\":{value}", c.name())).collect();
        format!("{{{}}}\n", all.join(","))
    }

    pub fn iter(&self) -> impl Iterator<Item = (Counter, u64)> + '_ {
        Counter::ALL.iter().map(|&c| (c, self.value(c)))
    }
}

impl Default for Counters {
    fn default() -> Self {
        Counters::zeroed()
    }
}
